"""What options, columns and tables call the same thing."""

# An option, and what tables say for it.
OPS = {"gn": "GN", "gn_relu": "GN + ReLU", "gn_add_relu": "GN + add + ReLU", "ws": "WS"}
PEERS = {
    "bn": "batch norm",
    "torch_gn": "torch's GN",
    "torch_gn_autocast": "torch's GN, autocast",
    "torch_compile": "torch's GN, compiled",
    "timm": "timm's WS",
    "var_mean": "var_mean WS",
}
NUM_GROUPS = 32  # of all group norms in `bench kernels`
PASSES = ("moments", "apply", "sums", "grad_x")  # of our group norm
NORMS = (  # of a training step
    *("bn", "gn_torch", "gn", "gn_ws", "gn_ws_recompute", "gn_ws_recompute_blocks", "gn_ws_recompute_8bit"),
)
REPLAYED = "_replayed"  # the end of a contender whose step is a CUDA graph
STEPS = (*NORMS, *(f"{name}{REPLAYED}" for name in NORMS))

# Of the host's time: what is queued, and by which norms and convolutions.
HOST_ARMS = ("bn", "gn", "gn_ws", "gn_ws_recompute")
PARTS = {
    "gn": ("bn", "gn"),
    "gn_relu": ("bn", "gn"),
    "gn_add_relu": ("bn", "gn"),
    "ws": ("bn", "gn_ws"),
    "step": HOST_ARMS,
}
