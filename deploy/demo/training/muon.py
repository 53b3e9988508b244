"""Muon for matrices and kernels, Adam for everything else.

Muon moves a matrix by its momentum made orthogonal (Newton-Schulz iteration); on these small models it needs far
fewer steps than Adam does. With several processes each orthogonalises its share of the matrices.
"""

import torch
import torch.distributed as dist


_A, _B, _C = 3.4445, -4.7750, 2.0315


def orthogonalise(matrix, iterations=5):
    """Newton-Schulz: five times X <- (a + b XX' + c (XX')^2) X."""
    x = matrix
    transposed = x.shape[0] > x.shape[1]
    if transposed:
        x = x.T
    x = x / (x.norm() + 1e-7)
    if x.shape[1] >= 3 * x.shape[0]:
        # All factors commute with the Gram matrix, so it alone is iterated: a third of the work for kernels.
        gram = x @ x.T
        product = None
        for i in range(iterations):
            factor = torch.addmm(gram, gram, gram, beta=_B, alpha=_C)
            factor.diagonal().add_(_A)
            product = factor if product is None else factor @ product
            if i + 1 < iterations:
                gram = factor @ gram @ factor
                gram = (gram + gram.T) / 2
        x = product @ x
    else:
        x = x.bfloat16()
        for _ in range(iterations):
            gram = x @ x.T
            x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=_B, alpha=_C), x, beta=_A)
        x = x.float()
    return x.T if transposed else x


class Muon(torch.optim.Optimizer):
    """`lr` is Adam's rate; Muon's is `ratio` times as large. Parameters whose name holds one of `adam_names` go to
    Adam whatever their shape."""

    def __init__(self, named, lr=1.5e-3, ratio=12.0, momentum=0.95, betas=(0.9, 0.99), adam_names=()):
        named = [(n, p) for n, p in named if p.requires_grad]

        def to_muon(name, p):
            return p.ndim >= 2 and not any(a in name for a in adam_names)

        groups = [{"params": [p for n, p in named if to_muon(n, p)], "muon": True},
                  {"params": [p for n, p in named if not to_muon(n, p)], "muon": False}]
        super().__init__([g for g in groups if g["params"]], {"lr": lr})
        self.ratio, self.momentum, self.betas = ratio, momentum, betas

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            if group["muon"]:
                self._muon(group["params"], group["lr"] * self.ratio)
            else:
                self._adam(group["params"], group["lr"])

    def _muon(self, params, lr):
        shared = dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
        ranks = dist.get_world_size() if shared else 1
        load = [0.0] * ranks
        updates = [None] * len(params)
        cost = [p.numel() * min(p.shape[0], p.numel() // p.shape[0]) for p in params]
        for i in sorted(range(len(params)), key=lambda i: -cost[i]):  # greedy, the same on every rank
            p = params[i]
            state = self.state[p]
            if "momentum" not in state:
                state["momentum"] = torch.zeros_like(p)
            state["momentum"].lerp_(p.grad, 1 - self.momentum)
            rank = load.index(min(load))
            load[rank] += cost[i]
            if not shared or rank == dist.get_rank():
                matrix = p.grad.lerp(state["momentum"], self.momentum).reshape(p.shape[0], -1)
                scale = max(1.0, matrix.shape[0] / matrix.shape[1]) ** 0.5
                updates[i] = orthogonalise(matrix).mul_(scale).reshape(p.shape)
            else:
                updates[i] = torch.zeros_like(p)
        if shared:
            flat = torch.cat([u.reshape(-1) for u in updates]).bfloat16()
            dist.all_reduce(flat)
            updates = [u.view_as(p) for u, p in zip(flat.float().split([p.numel() for p in params]), params)]
        for p, update in zip(params, updates):
            p.add_(update, alpha=-lr)

    def _adam(self, params, lr):
        b1, b2 = self.betas
        for p in params:
            state = self.state[p]
            if not state:
                state.update(step=0, mean=torch.zeros_like(p), square=torch.zeros_like(p))
            state["step"] += 1
            state["mean"].lerp_(p.grad, 1 - b1)
            state["square"].lerp_(p.grad * p.grad, 1 - b2)
            mean = state["mean"] / (1 - b1 ** state["step"])
            square = state["square"] / (1 - b2 ** state["step"])
            p.addcdiv_(mean, square.sqrt() + 1e-8, value=-lr)
