"""Writers: where the values of each logged step go.

writer = MultiWriter.default_config().instantiate(directory=run)  # file, TensorBoard, terminal
writer.resume(0); writer.write(10, {"loss": 3.2}); writer.close()
"""

from trellax.runtime.writers.jsonl import JsonlWriter
from trellax.runtime.writers.multi import MultiWriter
from trellax.runtime.writers.progress import ProgressWriter
from trellax.runtime.writers.tensorboard import TensorBoardWriter
from trellax.runtime.writers.writer import Writer, WriterError, WriterWarning

__all__ = [
    "JsonlWriter",
    "MultiWriter",
    "ProgressWriter",
    "TensorBoardWriter",
    "Writer",
    "WriterError",
    "WriterWarning",
]
