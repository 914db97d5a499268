"""How much of the true answer a search of this shard finds, measured while the shard is built.

`costs` what a search takes, from counts; `curves` the measured tables and how they are read; `truth` held-out
queries, synthetic filters and their exact answers; `measure` the measurement; `codec` the bytes.
"""

from vstore.shard.calibration.curves import Calibration, Curve
from vstore.shard.calibration.guide import Guide
from vstore.shard.calibration.measure import calibrate, n_held_out

__all__ = ["Calibration", "Curve", "Guide", "calibrate", "n_held_out"]
