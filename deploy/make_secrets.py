"""Makes the secrets of docker-compose.yml, each a file that none but this user can look up.

What is there already is kept: ``make secrets`` twice changes nothing.
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from secrets import token_hex


def main(folder: Path) -> None:
    folder.mkdir(mode=0o700, exist_ok=True)

    def secret(name: str, make: Callable[[], str]) -> str:
        path = folder / name
        if not path.exists():
            path.write_text(make())
            path.chmod(0o444)  # containers read it as users of their own
            sys.stdout.write(f"made {path}\n")
        return path.read_text()

    password = secret("postgres_password", token_hex)
    at = "postgres:5432/rhocache"
    secret("rhocache_database_url", lambda: f"postgresql://rhocache:{password}@{at}")
    secret("rhocache_ray_token", token_hex)
    secret("grafana_password", token_hex)
    keys = {name: secret(f"s3_key_{name}", token_hex) for name in ("service", "trainer")}
    for name, key in keys.items():
        lines = ("[default]", f"aws_access_key_id = {name}", f"aws_secret_access_key = {key}", "")
        secret(f"aws_credentials_{name}", lambda lines=lines: "\n".join(lines))
    rights = {"service": ["Admin", "Read", "Write", "List", "Tagging"], "trainer": ["Read", "List"]}
    identities = [
        {
            "name": name,
            "credentials": [{"accessKey": name, "secretKey": keys[name]}],
            "actions": rights[name],
        }
        for name in keys
    ]
    secret("s3.json", lambda: json.dumps({"identities": identities}, indent=1) + "\n")


if __name__ == "__main__":
    main(Path(__file__).parent / "secrets")
