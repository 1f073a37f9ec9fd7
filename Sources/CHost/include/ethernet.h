/* SPDX-License-Identifier: Apache-2.0 */
/*
 * ARP (RFC 826) and unsolicited neighbour advertisements (RFC 4861) on Ethernet, by packet(7): Swift's
 * Glibc module has no struct sockaddr_ll, and C describes a packet's layout better.
 *
 * IPv4 addresses are numbers in host byte order. Hardware addresses are numbers of 48 bits, the first byte
 * on the wire being the most significant one. Every function returns -errno on failure.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

enum { VIP_ARP_REQUEST = 1, VIP_ARP_REPLY = 2 };

/* The contents of an ARP packet. */
struct vip_arp {
	uint64_t hardware; /* of the sender, as the packet gives it */
	uint32_t sender;   /* 0 in a probe (RFC 5227) */
	uint32_t target;
	uint16_t operation; /* VIP_ARP_REQUEST or VIP_ARP_REPLY */
};

/*
 * Opens a nonblocking socket that receives ARP packets of one interface, given by its index, and nothing
 * else. Needs CAP_NET_RAW.
 */
int vip_arp_open(int interface);

/* Reads a packet without its link-layer header. Returns 1, or 0 if it is not ARP for IPv4 on Ethernet. */
int vip_arp_parse(const uint8_t *bytes, size_t length, struct vip_arp *packet);

/*
 * Reads the next packet for this host. Returns 1 with a packet, 0 if a packet was skipped (malformed,
 * or for another host), -EAGAIN if there is none.
 */
int vip_arp_read(int fd, struct vip_arp *packet);

/*
 * Broadcasts an ARP request: a probe if `sender` is 0, an announcement if `sender` is `target`
 * (RFC 5227, 2.1.1 and 2.3). If the interface's queue is full, it waits for at most a second.
 *
 * interface: its index. hardware: its hardware address.
 */
int vip_arp_request(int fd, int interface, uint64_t hardware, uint32_t sender, uint32_t target);

/*
 * Multicasts an unsolicited neighbour advertisement to all nodes. The source is the address that it
 * announces, and the override flag is set (RFC 4861, 7.2.6): neighbours that have another hardware
 * address in their caches replace it. Waits as vip_arp_request() does.
 *
 * fd: of vip_arp_open(). address: 16 bytes in network order.
 */
int vip_advertise(int fd, int interface, uint64_t hardware, const uint8_t *address);
