import hypothesis
import pytest

# The same examples in every run, however busy the machine is.
hypothesis.settings.register_profile("steady", deadline=None, derandomize=True, max_examples=60)
hypothesis.settings.load_profile("steady")

#: What a heavy test belongs to, so that a make target runs it.
TARGETS = ("runners", "kill", "quality", "package", "prism", "dataflow")


def pytest_collection_modifyitems(items):
    for item in items:
        own = [target for target in TARGETS if item.get_closest_marker(target)]
        if bool(own) != bool(item.get_closest_marker("heavy")):
            raise pytest.UsageError(
                f"{item.nodeid} is heavy without a target, or has one and is not: {own}"
            )
