"""What a test needs of the host, where more than one module asks for it."""

import os

import pytest

from tests.guest import uml_kernel

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: serves passthrough")
needs_uml = pytest.mark.skipif(
    not uml_kernel.is_built(), reason="User Mode Linux is not built; make test-all builds it"
)
