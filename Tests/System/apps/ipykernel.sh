# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash disable=SC2034,SC2154
#
# A kernel of Jupyter and its client: five TCP connections of ZeroMQ on 127.0.0.1, on ports that it chooses.

needs=(/usr/bin/python3)

job() {
    HOME=$work timeout 40 /usr/bin/python3 - <<'END'
import time
from jupyter_client.manager import KernelManager
manager = KernelManager(kernel_name="python3")
manager.start_kernel()
client = manager.client()
client.start_channels()
client.wait_for_ready(timeout=30)
client.execute_interactive("print('kernel:', 6 * 7)", timeout=20)
deadline = time.monotonic() + 10
while not client.hb_channel.is_beating() and time.monotonic() < deadline:
    time.sleep(0.1)
print("heartbeat:", client.hb_channel.is_beating(), "at", client.ip)
client.stop_channels()
manager.shutdown_kernel(now=True)
END
}
