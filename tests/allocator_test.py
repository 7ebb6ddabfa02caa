import subprocess
import sys

import pytest

STEPS = """
import resource
import sys
import jax
import numpy as np
from pcejax import allocator

if sys.argv[1] == "kept":
    allocator.keep_freed_memory()
step = jax.jit(lambda x: x + 1)
x = jax.device_put(np.ones((4096, 4096), np.float32))
faults = []
for _ in range(40):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    jax.block_until_ready(step(x))
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(sorted(faults[-9:])[4])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator")
@pytest.mark.parametrize(("how", "pages"), [("returned", 64 << 20 >> 12), ("kept", 0)])
def test_a_step_gets_the_memory_that_the_last_one_freed(how, pages):
    ended = subprocess.run([sys.executable, "-c", STEPS, how], capture_output=True, text=True, check=True)
    assert int(ended.stdout) == pytest.approx(pages, rel=0.1, abs=500)
