"""What holds for every test: no network, and no use of what transformers announces to remove."""

import logging
import os

import pytest


# Before transformers or huggingface_hub are imported: they read these once.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


class DeprecationNotices(logging.Handler):
    """Keeps the log records that announce a deprecation."""

    def __init__(self):
        super().__init__(logging.WARNING)
        self.messages = []

    def emit(self, record):
        if "deprecated" in (message := record.getMessage()).lower():
            self.messages.append(message)


@pytest.fixture(autouse=True)
def no_deprecated_api_of_transformers():
    """Fail a test in which transformers logs that something is deprecated; setup.cfg does so for warnings."""
    notices = DeprecationNotices()
    logger = logging.getLogger("transformers")
    logger.addHandler(notices)
    yield
    logger.removeHandler(notices)
    assert not notices.messages
