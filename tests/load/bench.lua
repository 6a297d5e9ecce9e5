-- For wrk: 2 KB chat completions under one key; prints figures that a program can read.
wrk.method = "POST"
wrk.headers["Authorization"] = "Bearer " .. os.getenv("BENCH_KEY")
wrk.headers["Content-Type"] = "application/json"
wrk.body = '{"model":"bench","stream":false,"max_tokens":100,"messages":[{"role":"user","content":"'
  .. string.rep("x", 1900) .. '"}]}'

done = function(summary, latency, _)
  local errors = summary.errors
  io.write("bench.requests=", summary.requests, "\n")
  io.write("bench.seconds=", summary.duration / 1e6, "\n")
  io.write("bench.p50_us=", latency:percentile(50), "\n")
  io.write("bench.errors=",
    errors.connect + errors.read + errors.write + errors.status + errors.timeout, "\n")
end
