"""What a cache stands for before a run: the documents of the runs before it."""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from rhocache_schemas import layout, storage
from rhocache_schemas.cache import index
from rhocache_schemas.cache.documents import Manifest, Plan
from rhocache_schemas.cache.fingerprint import Fingerprint
from rhocache_schemas.cache.index import IndexRow
from rhocache_schemas.errors import InvalidDocument
from rhocache_schemas.job.kinds.score import ScoreSpec
from rhocache_schemas.reference import ReferenceSpec
from rhocache_workers.messages import Description


@dataclass(frozen=True, slots=True)
class Standing:
    plan: Plan | None
    manifest: Manifest | None
    committed: dict[str, IndexRow]  # by shard; empty without a manifest, and where it is damaged

    @classmethod
    def of(cls, cache: str) -> "Standing":
        """Raises InvalidDocument for a damaged plan: what it was begun for is not to be guessed."""
        uri = layout.plan_file(cache)
        plan = Plan.read(uri) if storage.exists(uri) else None
        manifest = readable_manifest(cache)
        return cls(plan, manifest, _committed(cache, manifest) if manifest else {})

    @property
    def fingerprint(self) -> Fingerprint | None:
        begun = self.plan or self.manifest
        return begun.fingerprint if begun else None

    @property
    def dataset(self) -> str | None:
        if self.manifest is not None:
            return self.manifest.dataset
        return self.plan.spec.dataset if self.plan else None

    def description(self, spec: ScoreSpec, reference_sha256: str | None) -> Description | None:
        """Describe the reference as it was committed, where ``spec`` clearly asks for the same.

        None where only loading it can tell: it has another name, or its files are other ones or
        not to be seen from here.
        """
        manifest = self.manifest
        if manifest is None or self.fingerprint != manifest.fingerprint:
            return None
        asked = (spec.reference, spec.dtype, spec.caption_field)
        made = manifest.fingerprint
        if asked != (manifest.reference, made.dtype, made.caption_field):
            return None
        if reference_sha256 is None or reference_sha256 != manifest.reference_sha256:
            return None
        return Description(
            fingerprint=manifest.fingerprint,
            dimension=manifest.dimension,
            logit_scale=manifest.logit_scale,
            logit_bias=manifest.logit_bias,
            device="",  # none was loaded
            batch_size=manifest.batch_size,
            software=manifest.software,
        )


def readable_manifest(cache: str) -> Manifest | None:
    """The manifest, where there is one that is not damaged."""
    uri = layout.manifest_file(cache)
    try:
        return Manifest.read(uri) if storage.exists(uri) else None
    except InvalidDocument:
        return None


def _committed(cache: str, manifest: Manifest) -> dict[str, IndexRow]:
    uri = layout.index_file(cache)
    if not storage.exists(uri):
        return {}
    data = storage.read_bytes(uri)
    if hashlib.sha256(data).hexdigest() != manifest.index_sha256:
        return {}
    return {row.name: row for row in index.decode(data, uri)}


def hash_reference(reference: ReferenceSpec) -> str | None:
    """Hash the names and bytes of a reference's files, or its name where open_clip finds it.

    None where the files can't be read from this machine.
    """
    digest = hashlib.sha256(f"{reference.model}\0{reference.pretrained}\0".encode())
    try:
        for file in _files(reference):
            with file.open("rb") as stream:
                content = hashlib.file_digest(stream, "sha256").hexdigest()
            digest.update(os.fsencode(file.name) + f"\0{content}\0".encode())
    except OSError:
        return None
    return digest.hexdigest()


def _files(reference: ReferenceSpec) -> list[Path]:
    pretrained = Path(reference.pretrained or "")
    folder = reference.local_dir
    if pretrained.name.endswith(".index.json"):  # of weights in parts, which lie beside it
        folder = pretrained.parent
    if folder is not None:
        return sorted(file for file in Path(folder).iterdir() if file.is_file())
    # Anything with a slash was a file where the reference was loaded.
    return [pretrained] if pretrained.is_file() or "/" in str(pretrained) else []
