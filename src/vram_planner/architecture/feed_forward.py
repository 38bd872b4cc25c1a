"""Feed-forward blocks: dense, or a mixture of experts."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final, Protocol

from vram_planner.architecture.weight import Role, Weight, linear, norm, row_linear

# How names of experts that serve no text begin, and of what stands beside them.
OTHER_EXPERTS: Final = ("experts.other.", "other.")


def _of_others(name: str) -> str:
    experts, rest = OTHER_EXPERTS
    return experts + name.removeprefix("experts.") if name.startswith("experts.") else rest + name


class FeedForward(Protocol):
    """What every feed-forward block answers."""

    @property
    def weights(self) -> tuple[Weight, ...]:
        """Its tensors."""

    @property
    def active_share(self) -> tuple[int, int]:
        """Of each expert tensor, how many experts one token uses, of how many."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NoFeedForward:
    """A layer without a feed-forward block of its own (Mamba)."""

    @property
    def weights(self) -> tuple[Weight, ...]:
        """None."""
        return ()

    @property
    def active_share(self) -> tuple[int, int]:
        """Nothing to share."""
        return (1, 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class DenseMLP:
    """
    up (and gate) projection, activation, down projection.

    `fused` says that gate and up are stored as one matrix (Phi-3, GLM-4).
    """

    hidden: int
    intermediate: int
    gated: bool = True
    bias: bool = False
    fused: bool = False
    prefix: str = ""

    @property
    def weights(self) -> tuple[Weight, ...]:
        """Both halves are dealt out along the intermediate dimension."""
        width, name = self.intermediate, self.prefix
        down = row_linear(f"{name}down_proj", self.hidden, width, units=width, bias=self.bias)
        if self.fused and self.gated:
            fused = linear(f"{name}gate_up_proj", 2 * width, self.hidden, units=width, bias=self.bias)
            return (*fused, *down)
        gate = (
            linear(f"{name}gate_proj", width, self.hidden, units=width, bias=self.bias) if self.gated else ()
        )
        up = linear(f"{name}up_proj", width, self.hidden, units=width, bias=self.bias)
        return (*gate, *up, *down)

    @property
    def active_share(self) -> tuple[int, int]:
        """All of it."""
        return (1, 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class MixtureOfExperts:
    """
    `n_experts` gated experts of which each token uses `top_k`, and what every token uses beside them.

    `shared` is the block that runs for each token (DeepSeek, Qwen2-MoE, GLM), `shared_gate` its
    sigmoid gate (Qwen2-MoE). `router_bias` is a parameter (gpt-oss), `correction_bias` a buffer that
    balances the load (DeepSeek-V3, GLM-4.5). `bias` puts biases on the experts (gpt-oss). `zero_experts`
    give their input back: they have rows in the router and no matrices (LongCat-Flash). `other` is a router with
    experts of its own for tokens of another kind (images in ERNIE 4.5 VL): no text token uses it. `latent` is the
    width to which the experts' input is projected before, and from which it is projected back (Nemotron 3 Super),
    through a norm where `latent_norm` (Kimi K3).
    `own_router` replaces the router's single matrix where it is a network of its own (Zaya).
    `beside` says that the experts lie beside the block that runs for each token, not inside it (Gemma 4).
    """

    hidden: int
    n_experts: int
    top_k: int
    expert_intermediate: int
    shared: DenseMLP | None = None
    shared_gate: bool = False
    router_bias: bool = False
    correction_bias: bool = False
    bias: bool = False
    gated: bool = True
    zero_experts: int = 0
    shared_scores: int = 0
    other: MixtureOfExperts | None = None
    latent: int | None = None
    latent_bias: bool = False
    latent_norm: bool = False
    own_router: tuple[Weight, ...] = ()
    beside: bool = False

    @property
    def weights(self) -> tuple[Weight, ...]:
        """Router, stacks of experts, the shared block."""
        n, width, hidden = self.n_experts, self.expert_intermediate, self.latent or self.hidden
        names = ("gate", "up") if self.gated else ("up",)
        experts = [
            *(
                Weight(name=f"experts.{name}", shape=(n, width, hidden), role=Role.EXPERT, units=width)
                for name in names
            ),
            Weight(name="experts.down", shape=(n, hidden, width), role=Role.EXPERT, units=width),
        ]
        if self.bias:
            experts += [
                *(
                    Weight(name=f"experts.{name}.bias", shape=(n, width), role=Role.BIAS, units=width)
                    for name in names
                ),
                Weight(name="experts.down.bias", shape=(n, hidden), role=Role.BIAS),
            ]
        return (*self._router(), *experts, *self._latent(), *self._shared(), *self._other())

    def _other(self) -> tuple[Weight, ...]:
        if self.other is None:
            return ()
        return tuple(replace(weight, name=_of_others(weight.name)) for weight in self.other.weights)

    def _latent(self) -> tuple[Weight, ...]:
        if self.latent is None:
            return ()
        return (
            *linear("fc1_latent_proj", self.latent, self.hidden, bias=self.latent_bias),
            *linear("fc2_latent_proj", self.hidden, self.latent, bias=self.latent_bias),
            *(norm("latent_norm", self.latent) if self.latent_norm else ()),
        )

    def _router(self) -> tuple[Weight, ...]:
        if self.own_router:
            return self.own_router
        rows = self.n_experts + self.zero_experts
        scores = rows + self.shared_scores
        router = linear("router", scores, self.hidden, bias=self.router_bias, role=Role.ROUTER)
        if self.correction_bias:
            router += (Weight(name="router.correction", shape=(rows,), role=Role.BUFFER),)
        return router

    def _shared(self) -> tuple[Weight, ...]:
        if self.shared is None:
            return ()
        gate = linear("shared_gate", 1, self.hidden, role=Role.ROUTER) if self.shared_gate else ()
        return (*self.shared.weights, *gate)

    @property
    def active_share(self) -> tuple[int, int]:
        """top_k of n_experts; zero experts take their part of these."""
        return (self.top_k, self.n_experts + self.zero_experts)
