"""Classify files on a Ray cluster: the one-shot batch, shared out among machines.

::

    driver: `xray-batch process --ray`                worker: one per GPU, or per share of a node's CPUs
    finds files, hands them out in tasks  -- names ->  process_in_place: hash, look up, decode, classify,
    adds up what they came to             <- answers   record in PostgreSQL

Workers are plain actors and no stages of Ray Data: each runs :func:`process_in_place` as one machine does, so a task
that is done twice records nothing twice, and no pixels go through an object store that knows nothing of committed rows.

| what dies | then |
|---|---|
| a worker, or its node | its tasks are done again elsewhere, under their ids; what was recorded stays and counts once |
| decode workers that do not start, a GPU that is full | as if the worker had died |
| the driver, or its node | all workers end; the same command does what is left |
| a worker of a node that still lives | another one is started there, until `max_attempts` in a row were lost |

Only the module ``driver`` imports ray, and only when it connects.
"""

import os

from xray_batch.pipeline.environment import waiting

# On a node nothing of the package is loaded before this, and torch, which brings OpenMP, is later.
os.environ.update(waiting(os.environ))

from xray_batch.cluster.driver import Listeners, connected, process_on_cluster

__all__ = ["Listeners", "connected", "process_on_cluster"]
