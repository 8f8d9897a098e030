"""Compose the stages: decode workers, one ensemble, answers in groups.

::

    jobs -> DecodePool -> Pipeline -> groups of answers
            N processes   main process: batches through the ensemble

This file imports nothing: a decode worker starts in this package and must not load torch or a database.
"""
