"""One file a method; see README.md here for how to add one."""

from nowag_exp.methods.base import Method, Needs, SiteStatistics
from nowag_exp.methods.dense import Dense
from nowag_exp.methods.gptq import GPTQ
from nowag_exp.methods.kmeans_vq import KMeansVQ
from nowag_exp.methods.magnitude import Magnitude
from nowag_exp.methods.nowag_p import NoWagP
from nowag_exp.methods.nowag_vq import NoWagVQ
from nowag_exp.methods.pruning import Pruner
from nowag_exp.methods.rtn import RTN
from nowag_exp.methods.sparsegpt import SparseGPT
from nowag_exp.methods.wanda import Wanda

__all__ = [
    "GPTQ",
    "RTN",
    "Dense",
    "KMeansVQ",
    "Magnitude",
    "Method",
    "Needs",
    "NoWagP",
    "NoWagVQ",
    "Pruner",
    "SiteStatistics",
    "SparseGPT",
    "Wanda",
]
