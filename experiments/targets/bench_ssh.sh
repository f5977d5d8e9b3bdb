#!/bin/sh
# Milliseconds of a model on a machine that is reached by ssh: bench_ssh.sh HOST MODEL PROGRAM [ARGUMENT ...]
# PROGRAM runs there, in the home of HOST, with MODEL and the arguments. SSH_CONFIG is a file in the place of ~/.ssh/config.
# SSH_TIMEOUT is the seconds that PROGRAM may take there (50): less than the option timeout of runtime command.
set -eu
host=$1 model=$2 program=$3 limit=${SSH_TIMEOUT:-50} code=0
shift 3
there=/tmp/nni-proxyless-$(uname -n)-$$-$(basename "$model")
scp -q -B ${SSH_CONFIG:+-F "$SSH_CONFIG"} "$model" "$host:$there"
# BatchMode: nobody is asked for a password. timeout: what hangs over there ends, too.
ssh -o BatchMode=yes ${SSH_CONFIG:+-F "$SSH_CONFIG"} "$host" "trap 'rm -f $there' EXIT; timeout $limit $program $there $*" || code=$?
case $code in 124|143) echo "$host: no answer within $limit s, which is SSH_TIMEOUT" >&2;; esac  # 143: of busybox
exit $code
