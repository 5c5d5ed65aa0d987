"""Whether a tree of configs can run on a mesh: every node is asked, and says why not and what would do.

from trellax.parallel.support import RunShape, check_mesh, mesh_refusals
"""

from trellax.parallel.support.check import MeshRefusal, RunShape, check_mesh, mesh_refusals

__all__ = ["MeshRefusal", "RunShape", "check_mesh", "mesh_refusals"]
