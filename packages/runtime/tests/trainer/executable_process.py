"""A process that trains the tiny model: `executable_process.py NUM_DEVICES FOLDER [EXECUTABLE]`."""

import sys

import jax

from tests.tiny import tiny_trainer

if __name__ == "__main__":
    jax.config.update("jax_num_cpu_devices", int(sys.argv[1]))
    folder, executable = sys.argv[2], sys.argv[3] or None
    cfg = tiny_trainer(max_steps=3, save_every_steps=None).set(evaluators={})
    cfg.instantiate(directory=folder, executable=executable).run()
