"""What pynetdicom and pydicom would write down or refuse by themselves."""

from __future__ import annotations

import logging
import warnings

from pydicom import config
from pynetdicom import _config


def silence_libraries() -> None:
    """No value received reaches a log, and no odd UID ends an association: they are judged where they are answered."""
    _config.LOG_HANDLER_LEVEL = "none"
    _config.LOG_REQUEST_IDENTIFIERS = False
    _config.LOG_RESPONSE_IDENTIFIERS = False
    _config.STORE_RECV_CHUNKED_DATASET = False
    _config.ENFORCE_UID_CONFORMANCE = False
    _config.VALIDATORS["UI"] = lambda _uid: (True, "")
    # A quarter of a negotiation's time went into looking for what to warn of.
    config.settings.reading_validation_mode = config.IGNORE
    # Errors come with tracebacks and values, and warnings are remembered one by one; ours are counted in the summary.
    for name in ("pynetdicom", "pydicom"):
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
        warnings.filterwarnings("ignore", module=name)
