# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash disable=SC2016,SC2034,SC2154
#
# Open MPI and MPICH over TCP: a token goes round between two processes of this host (`own`), and between this host and
# another one (`hosts`), to which an agent in place of ssh leads. Open MPI takes the addresses that it announces from
# the list of the interfaces; a program of no session must find the host's own there while sessions are open.

needs=(mpicc.openmpi mpirun.openmpi mpicc.mpich mpirun.mpich python3)
port=9600
variants=(openmpi-own openmpi-hosts mpich-own mpich-hosts)
# The agent enters another network namespace.
user=root group=root

limit() {
    case "$variant $1" in
    *stranger*) ;;
    openmpi*) echo 'bind with AF_UNSPEC fails with EAFNOSUPPORT' ;;
    esac
}

prepare() {
    cat >ring.c <<'END'
#include <mpi.h>
#include <stdio.h>

int main(int argc, char **argv) {
    int rank, size, token = 0;
    MPI_Init(&argc, &argv);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &size);
    for (int round = 0; round < 100; round++) {
        if (rank == 0) {
            token++;
            MPI_Send(&token, 1, MPI_INT, 1, 0, MPI_COMM_WORLD);
        }
        MPI_Recv(&token, 1, MPI_INT, (rank + size - 1) % size, 0, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
        if (rank != 0) MPI_Send(&token, 1, MPI_INT, (rank + 1) % size, 0, MPI_COMM_WORLD);
    }
    if (rank == 0) printf("token: %d of %d processes\n", token, size);
    MPI_Finalize();
}
END
    mpicc.openmpi -o openmpi ring.c
    mpicc.mpich -o mpich ring.c
    cat >agent <<'END'
#!/bin/sh
# agent [-x] HOST COMMAND…: as ssh does
[ "$1" != -x ] || shift
host=$1
shift
echo $$ >"$peer_cgroup/cgroup.procs"
exec nsenter --net="/run/netns/$peer_net" unshare --uts sh -c 'hostname "$0"; exec sh -c "$*"' "$host" "$@"
END
    chmod +x agent
}

peer() {
    echo ready
    exec sleep 600
}

job() {
    local own
    # No resolver answers here, so hosts are called by their addresses, also by themselves.
    # The address from which the other host is reached: the session's.
    own=$(python3 -c 'import socket; s = socket.socket(type=socket.SOCK_DGRAM); s.connect(("198.51.100.2", 9)); print(s.getsockname()[0])')
    local openmpi=(mpirun.openmpi --allow-run-as-root --mca btl "tcp,self" --mca orte_tmpdir_base "$work"
        --mca plm_rsh_agent "$shared/agent" --mca hwloc_base_binding_policy none --oversubscribe)
    set -- unshare --uts sh -c 'hostname "$0"; exec timeout 15 "$@"' "$own"
    case $variant in
    openmpi-own) "$@" "${openmpi[@]}" -np 2 "$shared/openmpi" ;;
    openmpi-hosts) "$@" "${openmpi[@]}" -host 198.51.100.1:1,198.51.100.2:1 -np 2 "$shared/openmpi" ;;
    mpich-own) MPIR_CVAR_NOLOCAL=1 "$@" mpirun.mpich -np 2 "$shared/mpich" ;;
    mpich-hosts) MPIR_CVAR_NOLOCAL=1 "$@" mpirun.mpich -launcher ssh -launcher-exec "$shared/agent" -localhost "$own" \
        -hosts "$own,198.51.100.2" -np 2 "$shared/mpich" ;;
    esac
}
