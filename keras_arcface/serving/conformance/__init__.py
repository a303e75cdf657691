"""Conformance check of a server: signatures, answers, damaged images, versions, metadata and warm-up.

`check_server` runs the checks, which are in `checks/`. `answer_causes` and `error_causes` find the causes of failures.
"""
