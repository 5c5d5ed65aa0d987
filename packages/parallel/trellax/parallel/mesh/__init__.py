"""Device meshes: named sizes, one left to infer, placed by topology.

from trellax.parallel.mesh import MESH_AXES, AxisSizes, MeshShape, build_mesh
"""

from trellax.parallel.mesh.build import build_mesh, with_slices
from trellax.parallel.mesh.shape import MESH_AXES, AxisSizes, MeshShape

__all__ = ["MESH_AXES", "AxisSizes", "MeshShape", "build_mesh", "with_slices"]
