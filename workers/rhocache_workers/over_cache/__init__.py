"""Runs jobs over a cache: what all their kinds share.

A kind is a ``Work``, or where it gives one row a pair a ``PairWork`` (``work``), which its module
in ``rhocache_workers.kinds`` names as ``WORK``. ``driver.make_table`` runs one: it takes the lease
of the output, compares the output's identity, tells of progress, and commits. Files reach the
output by ``target`` alone, which looks each time whether the cache is still the one that was
opened.
"""
