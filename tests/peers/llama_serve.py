"""Serve a model with llama.cpp's own server: `python llama_serve.py FILE.gguf PORT`.

Runs in the llama venv, on 127.0.0.1, until SIGTERM or until its parent is gone.
"""

from __future__ import annotations

import ctypes
import signal
import sys

import xllamacpp

PR_SET_PDEATHSIG = 1

ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)

params = xllamacpp.CommonParams()
params.model.path = sys.argv[1]
params.model_alias = {"tiny-llama"}
params.hostnames = ["127.0.0.1"]
params.port = int(sys.argv[2])
params.n_ctx = 16384
params.n_parallel = 4
params.n_threads_http = 32  # one for each connection that is kept alive
params.cpuparams.n_threads = 1
params.cpuparams_batch.n_threads = 1
params.embedding = True
params.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_MEAN
params.fit_params = False
params.ui = False
params.verbosity = 1

server = xllamacpp.Server(params)
print(f"ready {server.listening_address}", flush=True)
signal.pause()
