"""Plans: what an experiment needs of hardware that is not here, and how fast it can be there.

from trellax.experiments.planning import make_plan, plan_text
"""

from trellax.experiments.planning.make import make_plan
from trellax.experiments.planning.page import plans_html
from trellax.experiments.planning.report import Plan
from trellax.experiments.planning.text import plan_text

__all__ = ["Plan", "make_plan", "plan_text", "plans_html"]
