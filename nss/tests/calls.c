/* SPDX-License-Identifier: Apache-2.0 */
/*
 * calls MODULE NAME COUNT: looks NAME up COUNT times in the name service module, between two calls
 * of getppid(2), which mark the look-ups in the output of strace. One look-up before that is not
 * counted.
 */
#include <dlfcn.h>
#include <nss.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

int main(int count, char **arguments)
{
	void *module = count == 4 ? dlopen(arguments[1], RTLD_NOW) : NULL;
	nss_gethostbyname4_r *look_up;
	char buffer[1024];
	int error, h_error;

	if (!module) {
		fprintf(stderr, "calls: %s\n", count == 4 ? dlerror() : "three arguments");
		return 64;
	}
	look_up = (nss_gethostbyname4_r *)dlsym(module, "_nss_vip_gethostbyname4_r");
	for (int i = -1; i < atoi(arguments[3]); i++) {
		struct gaih_addrtuple *list = NULL;

		if (!i)
			getppid();
		look_up(arguments[2], &list, buffer, sizeof(buffer), &error, &h_error, NULL);
	}
	getppid();
	return 0;
}
