import inspect
import pickle

from rhocache_schemas import errors


def classes() -> list[type[Exception]]:
    return [c for _, c in inspect.getmembers(errors, inspect.isclass) if issubclass(c, Exception)]


def test_the_docstring_draws_the_tree_as_it_is() -> None:
    drawn: list[tuple[int, str]] = []
    for line in errors.__doc__.splitlines():
        name = line.lstrip(" │├└─").split(" ")[0]
        if hasattr(errors, name):
            drawn.append((line.index(name), name))
    parents: dict[int, str] = {}
    tree = set()
    for depth, name in drawn:
        above = [d for d in parents if d < depth]
        tree.add((name, parents[max(above)] if above else "Exception"))
        parents = {d: n for d, n in parents.items() if d < depth} | {depth: name}
    assert tree == {(c.__name__, c.__bases__[0].__name__) for c in classes()}


def test_codes_are_unique() -> None:
    own = [c.code for c in classes() if "code" in vars(c)]
    assert len(own) == len(set(own))


def test_a_shard_error_survives_pickling() -> None:
    error = errors.ShardError(errors.ShardErrorCode.IO_ERROR, "a/0.tar", "connection lost")
    copy = pickle.loads(pickle.dumps(error))
    assert (copy.code, copy.shard, str(copy)) == (error.code, error.shard, str(error))


def test_each_code_of_shards_and_pairs_is_told_in_words() -> None:
    codes = [*errors.ShardErrorCode, *errors.RowErrorCode]
    assert all(errors.meaning(code) for code in codes)
    assert errors.meaning("of_newer_software") == ""
