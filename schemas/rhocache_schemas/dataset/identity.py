"""When a dataset is still the one that a cache was made from.

Data may move, so its path does not tell: the names of its shards and their contents do. A dataset
that has grown has all of the cache's shards and more; one that has shrunk lacks some, whose rows
stay; and some of them may have changed. Where most have, it is another.
"""

from rhocache_schemas.errors import DatasetMismatch


def check_same_dataset(
    cache: str,
    begun_for: str,
    dataset: str,
    *,
    same: int,
    changed: int,
    gone: int = 0,
    unknown: int = 0,
) -> None:
    """Refuse another dataset for a cache, by the number of the cache's shards that are there.

    ``same`` have the contents that were scored, ``changed`` have others, ``gone`` are not in the
    dataset, and ``unknown`` could not be compared.

    Raises DatasetMismatch.
    """
    if changed > same or (gone and not same and not unknown):
        count = same + changed + gone + unknown
        raise DatasetMismatch(
            f"{cache} holds {begun_for}, and {dataset} is another dataset: of the cache's {count} "
            f"shards, {same} are the same there, {changed} have other contents and {gone} are not "
            "there. Use another output; or, to give up what the cache holds for this dataset, "
            "--replace (`replace` over REST)"
        )
