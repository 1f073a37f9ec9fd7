# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash disable=SC2034,SC2154
#
# Dask: a scheduler, two workers and a client of one session. The workers announce themselves by the address from which
# they reach the scheduler, and call each other by it; `host` are workers on 127.0.0.1.

needs=(dask-scheduler dask-worker /usr/bin/python3)
port=8786
variants=(default host)

limit() {
    case "$variant $1 $2" in
    'default '*'worker one @VIP4' | 'default '*'worker two @VIP4') echo 'a program announces its virtual IP instead of 127.0.0.1' ;;
    esac
}

job() {
    export HOME=$work DASK_DISTRIBUTED__WORKER__USE_FILE_LOCKING=False
    dask-scheduler --port "$port" --no-dashboard --no-show >scheduler 2>&1 &
    local worker options=()
    [ "$variant" = default ] || options=(--host 127.0.0.1)
    for worker in one two; do
        dask-worker "tcp://127.0.0.1:$port" --name "$worker" --nthreads 1 --no-dashboard --no-nanny --memory-limit 0 \
            --local-directory "$work/$worker" "${options[@]}" >"$worker.log" 2>&1 &
    done
    timeout 40 /usr/bin/python3 - "$port" <<'END' || { tail -n 5 scheduler ./*.log >&2; return 1; }
import sys
from distributed import Client
client = Client(f"tcp://127.0.0.1:{sys.argv[1]}", timeout=30)
client.wait_for_workers(2)
parts = client.map(lambda n: n * n, range(20), workers=["one"])
total = client.submit(sum, parts, workers=["two"])
print("sum, of numbers that one worker got from the other:", total.result())
info = client.scheduler_info()
print("scheduler:", info["address"].rsplit("//", 1)[1])
for worker in sorted(info["workers"].values(), key=lambda worker: worker["name"]):
    print(f"worker {worker['name']}:", worker["host"])
END
}
