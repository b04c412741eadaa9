"""Attribution methods."""

from bcos_peft.evaluation.methods.attention import Attention, AttentionRollout
from bcos_peft.evaluation.methods.base import BaselineMethod, Method
from bcos_peft.evaluation.methods.cost import Cost, Metered, add_costs
from bcos_peft.evaluation.methods.gradient import DeepLift, InputXGradient, IntegratedGradients, Saliency
from bcos_peft.evaluation.methods.names import METHODS, Bcos, Random, get_method
from bcos_peft.evaluation.methods.perturbation import KernelShap, Lime, Occlusion, ShapleySampling
from bcos_peft.evaluation.methods.precomputed import PrecomputedScores


__all__ = [
    "Attention",
    "AttentionRollout",
    "BaselineMethod",
    "Bcos",
    "Cost",
    "DeepLift",
    "InputXGradient",
    "IntegratedGradients",
    "KernelShap",
    "Lime",
    "METHODS",
    "Metered",
    "Method",
    "Occlusion",
    "PrecomputedScores",
    "Random",
    "Saliency",
    "ShapleySampling",
    "add_costs",
    "get_method",
]
