import os

# Before jax is imported anywhere: two devices, so that whatever depends on their number is tested on a CPU; and
# programs compiled as they stand, since a test compiles for longer than it runs. The scripts that the end-to-end
# tests start are compiled as a user's.
os.environ["XLA_FLAGS"] = " ".join(
    (
        os.environ.get("XLA_FLAGS", ""),
        "--xla_force_host_platform_device_count=2",
        "--xla_backend_optimization_level=0",
    )
).strip()

import jax
import pytest

# A broadcast that adds axes is more often a mistake than meant. (Strict dtype promotion is not to be had:
# Flax asks jnp.promote_types for bfloat16 with float32 in its norms, which raises under it.)
jax.config.update("jax_numpy_rank_promotion", "raise")

OURS = r"(pcejax|configs|conftest|\w+_test)(\.|$)"
"""The modules whose own calls may warn of nothing: a pattern of their names."""


@pytest.fixture(scope="module", autouse=True)
def no_programs_of_modules_before():
    """Each compiled program holds memory maps, of which a process may have 65,530: thousands of tests would abort."""
    yield
    jax.clear_caches()


def pytest_configure(config):
    config.addinivalue_line("filterwarnings", f"error:::{OURS}")
