"""Trains on several processes, which Ray Train starts where a cluster has room for them."""

import asyncio
import os
import signal
import threading
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any

import ray
from ray.exceptions import RayError
from ray.train import ControllerError, RunConfig, ScalingConfig, WorkerGroupError
from ray.train.torch import TorchTrainer

from rhocache_schemas.errors import InvalidInput, RhocacheError, TrainingError
from rhocache_trainer.run_folder import RunFolder
from rhocache_trainer.training.config import TrainConfig
from rhocache_trainer.training.loop import Resume, TrainResult, check_output, train
from rhocache_trainer.training.signals import Stop


def train_on_ray(
    config: TrainConfig,
    *,
    resume: Resume = "never",
    processes: int = 1,
    gpus_per_process: int | None = None,
    address: str | None = None,
) -> TrainResult:
    """Train in ``processes`` workers of a Ray cluster; return what the first one's ``train`` does.

    Relative paths are those of this process, so a cluster of several machines needs a file system
    that they share. ``address`` None starts Ray on this machine, for this run alone;
    ``gpus_per_process`` None takes one GPU each where the cluster has any and the config wants it.

    On a SIGTERM to this process the workers finish their step and save, and the result says
    ``stopped``. On a SIGINT Ray Train aborts: the last checkpoint is kept.

    Raises what ``train`` does, InvalidInput where the Ray that was started here has too few GPUs,
    and TrainingError when Ray or a worker breaks down.
    """
    check_output(config, resume)
    folder = RunFolder(Path(config.output).absolute())
    owns_ray = not ray.is_initialized()
    try:
        if owns_ray:
            _start(address, processes)
        gpus = _gpus(config, gpus_per_process)
        if owns_ray and address is None and (there := _gpus_there()) < gpus * processes:
            raise InvalidInput(
                f"{processes} processes with {gpus} GPUs each, but this machine has {there:g} GPUs"
            )
        with _stopper() as stopper:
            asked = {"config": config, "resume": resume, "folder": str(Path.cwd())}
            trainer = TorchTrainer(
                _train,
                train_loop_config={**asked, "stopper": stopper},
                scaling_config=ScalingConfig(
                    num_workers=processes,
                    use_gpu=gpus > 0,
                    resources_per_worker={"CPU": 1, "GPU": gpus} if gpus else {"CPU": 1},
                ),
                run_config=RunConfig(name=folder.ray.name, storage_path=str(folder.path)),
            )
            return trainer.fit().return_value  # pyright: ignore[reportReturnType]
    except WorkerGroupError as failed:
        raise _cause(failed) from failed
    except (RayError, ControllerError) as error:
        raise TrainingError(f"Ray broke down: {' '.join(str(error).split())}") from error
    finally:
        if owns_ray:
            ray.shutdown()


def _train(asked: dict[str, Any]) -> TrainResult:
    """In a worker, whose environment and process group Ray Train has set up as torchrun would."""
    os.chdir(asked["folder"])  # Ray has put it elsewhere
    stop = Stop()  # no signal reaches a worker
    threading.Thread(target=_wait, args=(asked["stopper"], stop), daemon=True).start()
    return train(asked["config"], resume=asked["resume"], stop=stop)


def _wait(stopper: Any, stop: Stop) -> None:
    with suppress(RayError):  # the run is over
        ray.get(stopper.asked.remote())
        stop.signal = signal.SIGTERM


@ray.remote(num_cpus=0)
class _Stopper:
    """Tells the workers of the signal that the process has got which has started them."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    async def ask(self) -> None:
        self._event.set()

    async def asked(self) -> None:
        await self._event.wait()


@contextmanager
def _stopper() -> Generator[Any]:
    stopper: Any = _Stopper.remote()  # pyright: ignore[reportAttributeAccessIssue]
    main_thread = threading.current_thread() is threading.main_thread()
    usual = signal.getsignal(signal.SIGTERM)

    def ask(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
        stopper.ask.remote()

    try:
        if main_thread:  # the only one that Python gives signals to
            signal.signal(signal.SIGTERM, ask)
        yield stopper
    finally:
        if main_thread:
            signal.signal(signal.SIGTERM, usual)
        ray.kill(stopper)


def _start(address: str | None, processes: int) -> None:
    quiet: dict[str, Any] = {"logging_level": "ERROR"}
    try:
        if address is None:
            ray.init(address="local", num_cpus=processes, include_dashboard=False, **quiet)
        else:
            # Ray Train's own actors look their cluster up, and of several on a machine find any.
            known = {"env_vars": {"RAY_ADDRESS": address}}
            ray.init(address=address, runtime_env=known, **quiet)
    except Exception as error:  # a bare one where Ray's own processes are late
        where = f"join Ray at {address}" if address else "start Ray"
        raise TrainingError(f"cannot {where}: {' '.join(str(error).split())}") from error


def _gpus(config: TrainConfig, asked: int | None) -> int:
    """GPUs of each process."""
    if asked is not None:
        return asked
    return int(config.device in ("auto", "cuda") and _gpus_there() > 0)


def _gpus_there() -> float:
    return ray.cluster_resources().get("GPU", 0)


def _cause(failed: WorkerGroupError) -> BaseException:
    """What went wrong first: the other workers fail because they wait for that one in vain."""
    causes = [getattr(each, "_base_exc", each) for each in failed.worker_failures.values()]
    known = [each for each in causes if isinstance(each, RhocacheError)]
    if known:
        return known[0]
    return TrainingError(f"a training worker broke down: {' '.join(str(causes[0]).split())}")
