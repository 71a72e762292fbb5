"""What is measured in these tests."""

from driven_servers import server  # noqa: F401 - a fixture
