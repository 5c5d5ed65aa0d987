"""Plans are made without devices, so importing the package must not load JAX."""

import os
import subprocess
import sys


def test_plans_are_made_without_importing_jax():
    code = (
        "import sys; from trellax.parallel import *\n"
        "MeshShape(fsdp=-1).resolved(8); fsdp_tensor_rules().explain_spec(('embed',))\n"
        "hardware_named('tpu-v5p-512'); save_names('q_proj')\n"
        "from trellax.parallel.hardware import xla_flags\n"
        "from trellax.parallel.planning import *\n"
        "xla_flags(hardware_named('gpu-h100-8')); mesh_links(MeshShape(fsdp=-1), hardware_named('tpu-v5p-512'))\n"
        "assert 'jax' not in sys.modules"
    )
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", code], check=True, env=env)
