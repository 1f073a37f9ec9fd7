/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "ethernet.h"

#include <arpa/inet.h>
#include <errno.h>
#include <net/ethernet.h>
#include <net/if_arp.h>
#include <netinet/icmp6.h>
#include <netinet/if_ether.h>
#include <netinet/ip6.h>
#include <netpacket/packet.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

_Static_assert(sizeof(struct ether_arp) == 28, "an ARP packet for IPv4 on Ethernet, RFC 826");

static void put_hardware(uint8_t *bytes, uint64_t hardware)
{
	for (int i = 0; i < ETH_ALEN; i++)
		bytes[i] = (uint8_t)(hardware >> (8 * (ETH_ALEN - 1 - i)));
}

static uint64_t get_hardware(const uint8_t *bytes)
{
	uint64_t hardware = 0;

	for (int i = 0; i < ETH_ALEN; i++)
		hardware = hardware << 8 | bytes[i];
	return hardware;
}

int vip_arp_open(int interface)
{
	struct sockaddr_ll own = {
		.sll_family = AF_PACKET,
		.sll_protocol = htons(ETH_P_ARP),
		.sll_ifindex = interface,
	};
	/*
	 * The socket has no protocol until it is bound. With one, it would receive packets of
	 * other interfaces until then.
	 */
	int fd = socket(AF_PACKET, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

	if (fd < 0)
		return -errno;
	/* bind(2) takes index 0 for all interfaces. */
	if (interface <= 0 || bind(fd, (struct sockaddr *)&own, sizeof(own)) < 0) {
		int error = interface <= 0 ? ENODEV : errno;

		close(fd);
		return -error;
	}
	return fd;
}

int vip_arp_parse(const uint8_t *bytes, size_t length, struct vip_arp *packet)
{
	struct ether_arp arp;
	uint16_t kind;

	/* The packet may be longer: Ethernet pads short frames. */
	if (length < sizeof(arp))
		return 0;
	memcpy(&arp, bytes, sizeof(arp));
	kind = ntohs(arp.arp_hrd);
	/* Only these two count, as in Linux itself (arp_process(), net/ipv4/arp.c). */
	if (kind != ARPHRD_ETHER && kind != ARPHRD_IEEE802)
		return 0;
	if (ntohs(arp.arp_pro) != ETH_P_IP || arp.arp_hln != ETH_ALEN || arp.arp_pln != 4)
		return 0;
	*packet = (struct vip_arp){ .hardware = get_hardware(arp.arp_sha),
				    .operation = ntohs(arp.arp_op) };
	memcpy(&packet->sender, arp.arp_spa, sizeof(packet->sender));
	memcpy(&packet->target, arp.arp_tpa, sizeof(packet->target));
	packet->sender = ntohl(packet->sender);
	packet->target = ntohl(packet->target);
	return packet->operation == VIP_ARP_REQUEST || packet->operation == VIP_ARP_REPLY;
}

int vip_arp_read(int fd, struct vip_arp *packet)
{
	uint8_t bytes[sizeof(struct ether_arp)];
	struct sockaddr_ll from = { 0 };
	socklen_t length = sizeof(from);
	ssize_t count;

	do
		count = recvfrom(fd, bytes, sizeof(bytes), 0, (struct sockaddr *)&from, &length);
	while (count < 0 && errno == EINTR);
	if (count < 0)
		return -errno;
	/* Skip packets of a card in promiscuous mode, or of a VLAN that this interface is not in. */
	if (from.sll_pkttype == PACKET_OTHERHOST || from.sll_pkttype == PACKET_OUTGOING)
		return 0;
	return vip_arp_parse(bytes, (size_t)count, packet);
}

static int send_to(int fd, const struct sockaddr_ll *to, const void *bytes, size_t length)
{
	const struct timespec pause = { .tv_nsec = 1000000 };
	int error = 0;

	for (int try = 0; try < 1000; try++) {
		ssize_t count =
			sendto(fd, bytes, length, 0, (const struct sockaddr *)to, sizeof(*to));

		if (count >= 0)
			return (size_t)count == length ? 0 : -EMSGSIZE;
		error = errno;
		if (error == EINTR)
			continue;
		if (error != EAGAIN && error != ENOBUFS)
			break;
		nanosleep(&pause, NULL);
	}
	return -error;
}

int vip_arp_request(int fd, int interface, uint64_t hardware, uint32_t sender, uint32_t target)
{
	struct sockaddr_ll to = {
		.sll_family = AF_PACKET,
		.sll_protocol = htons(ETH_P_ARP),
		.sll_ifindex = interface,
		.sll_halen = ETH_ALEN,
		.sll_addr = { 0xff, 0xff, 0xff, 0xff, 0xff, 0xff },
	};
	struct ether_arp arp = {
		.ea_hdr = {
			.ar_hrd = htons(ARPHRD_ETHER),
			.ar_pro = htons(ETH_P_IP),
			.ar_hln = ETH_ALEN,
			.ar_pln = 4,
			.ar_op = htons(VIP_ARP_REQUEST),
		},
	};

	put_hardware(arp.arp_sha, hardware);
	sender = htonl(sender);
	target = htonl(target);
	memcpy(arp.arp_spa, &sender, sizeof(sender));
	memcpy(arp.arp_tpa, &target, sizeof(target));
	return send_to(fd, &to, &arp, sizeof(arp));
}

/* The Internet checksum, RFC 1071, of an even number of bytes; its sum so far is `sum`. */
static uint32_t add_up(uint32_t sum, const void *bytes, size_t length)
{
	const uint8_t *byte = bytes;

	for (size_t i = 0; i + 1 < length; i += 2)
		sum += (uint32_t)byte[i] << 8 | byte[i + 1];
	return sum;
}

int vip_advertise(int fd, int interface, uint64_t hardware, const uint8_t *address)
{
	struct {
		struct ip6_hdr ip;
		struct nd_neighbor_advert advert;
		struct nd_opt_hdr option;
		uint8_t hardware[ETH_ALEN];
	} packet = {
		.ip = {
			.ip6_flow = htonl(6u << 28),
			.ip6_plen = htons(sizeof(packet) - sizeof(packet.ip)),
			.ip6_nxt = IPPROTO_ICMPV6,
			/* Receivers drop packets that may have come through a router: RFC 4861, 7.1.2. */
			.ip6_hlim = 255,
			/* All nodes, ff02::1. */
			.ip6_dst = { .s6_addr = { 0xff, 0x02, [15] = 0x01 } },
		},
		.advert = {
			.nd_na_hdr = { .icmp6_type = ND_NEIGHBOR_ADVERT },
		},
		.option = {
			.nd_opt_type = ND_OPT_TARGET_LINKADDR,
			.nd_opt_len = 1, /* of 8 bytes */
		},
	};
	struct sockaddr_ll to = {
		.sll_family = AF_PACKET,
		.sll_protocol = htons(ETH_P_IPV6),
		.sll_ifindex = interface,
		.sll_halen = ETH_ALEN,
		.sll_addr = { 0x33, 0x33, 0, 0, 0, 0x01 }, /* ff02::1, RFC 2464, 7 */
	};
	uint32_t sum;

	_Static_assert(sizeof(packet) == 40 + 24 + 8, "the packet has no padding");
	packet.advert.nd_na_flags_reserved = ND_NA_FLAG_OVERRIDE;
	memcpy(&packet.ip.ip6_src, address, sizeof(packet.ip.ip6_src));
	memcpy(&packet.advert.nd_na_target, address, sizeof(packet.advert.nd_na_target));
	put_hardware(packet.hardware, hardware);

	/* With the pseudo-header of RFC 8200, 8.1. */
	sum = add_up(IPPROTO_ICMPV6 + sizeof(packet) - sizeof(packet.ip), &packet.ip.ip6_src, 32);
	sum = add_up(sum, &packet.advert, sizeof(packet) - sizeof(packet.ip));
	while (sum >> 16)
		sum = (sum & 0xffff) + (sum >> 16);
	packet.advert.nd_na_cksum = htons((uint16_t)~sum);
	return send_to(fd, &to, &packet, sizeof(packet));
}
