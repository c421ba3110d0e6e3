// A run's numbers while it trains.
import { keepLooking, renew } from "./live.js";

keepLooking(() => renew(location.href, "live"), 5);
