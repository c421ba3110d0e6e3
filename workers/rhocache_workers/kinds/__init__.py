"""What a driver runs for a job of each kind: ``run(spec, order)``, which returns the line that it
ends with, and raises RhocacheError.

Where a run tells how far it is and why it fails in the output's ``progress.json``
(rhocache_workers.run.progress), the service does too; a run that fails without a word is started
again.
"""
