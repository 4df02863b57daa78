#!/bin/bash
# cluster.sh FOLDER N: a Slurm cluster of N nodes on this machine, for as long as stdin stays open.
#
# The controller is the host `ctl`, 10.77.0.1; node i is the host `n<i>`, 10.77.0.(10+i), in network, UTS and mount
# namespaces of its own, on one bridge. All of it lives in one PID namespace, so that its end ends every process,
# and in a network of its own, so that nothing of the machine's is touched. Says `ready` when all nodes are idle;
# FOLDER/node.<i> holds the PID of node i's slurmd, as seen from inside.
# Needs root, slurm-wlm, munge, iproute2 and util-linux.
set -euo pipefail

folder=$1 count=$2
if [[ -z ${INSIDE:-} ]]; then
    INSIDE=1 exec unshare --net --mount --uts --pid --fork --kill-child --mount-proc -- "$0" "$@"
fi
unset INSIDE
mkdir -p "$folder"/{state,spool,log}
chmod 755 "$folder"
export SLURM_CONF=$folder/slurm.conf

network() {
    hostname ctl
    ip link set lo up
    ip link add bridge type bridge
    ip address add 10.77.0.1/24 dev bridge
    ip link set bridge up
    { printf '127.0.0.1 localhost\n10.77.0.1 ctl\n'
      for i in $(seq "$count"); do printf '10.77.0.%d n%d\n' $((10 + i)) "$i"; done; } >"$folder/hosts"
    mount --make-rprivate /
    mount --bind "$folder/hosts" /etc/hosts
}

configure() { # why: short intervals, or each job of a test waits for the scheduler's next round
    cat >"$SLURM_CONF" <<CONF
ClusterName=tests
SlurmctldHost=ctl(10.77.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket=$folder/munge.socket
CryptoType=crypto/munge
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool/%n
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.%n.pid
SlurmctldLogFile=$folder/log/slurmctld.log
SlurmdLogFile=$folder/log/slurmd.%n.log
ProctrackType=proctrack/pgid
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=sched_interval=1,bf_interval=1,batch_sched_delay=0,sched_min_interval=1000
MpiDefault=none
ReturnToService=2
SlurmctldTimeout=10
SlurmdTimeout=10
MinJobAge=600
SlurmdParameters=config_overrides
NodeName=n[1-$count] CPUs=4 RealMemory=4000 State=UNKNOWN
PartitionName=all Nodes=n[1-$count] Default=YES MaxTime=INFINITE State=UP
CONF
}

munge() {
    head -c 1024 /dev/urandom >"$folder/munge.key"
    chmod 600 "$folder/munge.key"
    munged --force --key-file="$folder/munge.key" --socket="$folder/munge.socket" --pid-file="$folder/munged.pid" \
        --log-file="$folder/log/munged.log" --seed-file="$folder/munge.seed"
}

# A node's slurmd must see its interface before it starts, and the interface can only be given to a process that
# is already in the node's namespace: so the node waits for it.
node() { # its number
    unshare --net --uts --mount bash -c "
        hostname n$1
        ip link set lo up
        touch '$folder/up.$1'
        until ip link show eth0; do sleep 0.02; done
        ip address add 10.77.0.$((10 + $1))/24 dev eth0
        ip link set eth0 up
        exec slurmd -D -N n$1" &>"$folder/log/node.$1.log" </dev/null &
    local pid=$!
    echo "$pid" >"$folder/node.$1"
    until [[ -e $folder/up.$1 ]]; do sleep 0.02; done
    ip link add "v$1" type veth peer name eth0 netns "$pid"
    ip link set "v$1" master bridge
    ip link set "v$1" up
}

network
configure
munge
slurmctld -c -i
for i in $(seq "$count"); do node "$i"; done
for _ in $(seq 300); do
    if [[ $(sinfo --noheader --format='%T %D') == "idle $count" ]]; then
        echo "ready"
        cat >/dev/null
        exit 0
    fi
    sleep 0.1
done
echo "not all nodes are idle after 30 s:" && sinfo && exit 1
