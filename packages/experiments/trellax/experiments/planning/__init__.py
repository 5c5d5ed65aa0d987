"""Plans: what an experiment needs of hardware that is not here, and how fast it can be there.

from trellax.experiments.planning import make_plan, plan_text
"""

from trellax.experiments.planning.make import make_plan
from trellax.experiments.planning.page import plans_html
from trellax.experiments.planning.program import planned_program
from trellax.experiments.planning.remat import RematRow, remat_rows, remat_text
from trellax.experiments.planning.report import Plan
from trellax.experiments.planning.text import mesh_text, plan_text, verdict
from trellax.experiments.planning.tune import Tuned, tune, tuned_text

__all__ = [
    "Plan",
    "RematRow",
    "Tuned",
    "make_plan",
    "mesh_text",
    "plan_text",
    "planned_program",
    "plans_html",
    "remat_rows",
    "remat_text",
    "tune",
    "tuned_text",
    "verdict",
]
