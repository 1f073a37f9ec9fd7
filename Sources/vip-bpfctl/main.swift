// SPDX-License-Identifier: Apache-2.0

import Glibc
import VipCommands

exit(VipBPFCtl.run())
