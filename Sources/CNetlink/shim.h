/* SPDX-License-Identifier: Apache-2.0 */
/*
 * libnl-route, for the addresses of interfaces and the table of neighbours: rtnetlink(7). libnl, for the sockets:
 * sock_diag(7).
 */
#pragma once

#include <linux/if_addr.h>
#include <linux/inet_diag.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <linux/sock_diag.h>
#include <netlink/addr.h>
#include <netlink/attr.h>
#include <netlink/errno.h>
#include <netlink/msg.h>
#include <netlink/netlink.h>
#include <netlink/route/addr.h>
#include <netlink/route/link.h>
#include <netlink/route/neighbour.h>
#include <netlink/route/nexthop.h>
#include <netlink/route/route.h>
