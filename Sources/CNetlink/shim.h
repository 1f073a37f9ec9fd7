/* SPDX-License-Identifier: Apache-2.0 */
/* libnl-route, for the addresses of interfaces and who else has one: rtnetlink(7). */
#pragma once

#include <linux/if_addr.h>
#include <linux/rtnetlink.h>
#include <netlink/addr.h>
#include <netlink/errno.h>
#include <netlink/netlink.h>
#include <netlink/route/addr.h>
#include <netlink/route/link.h>
#include <netlink/route/neighbour.h>
#include <netlink/route/nexthop.h>
#include <netlink/route/route.h>
