#!/bin/sh
# Milliseconds of a model on a machine that is reached by ssh: bench_ssh.sh HOST MODEL PROGRAM [ARGUMENT ...]
# PROGRAM runs there, in the home of HOST, with MODEL and the arguments. SSH_CONFIG is a file in the place of ~/.ssh/config.
set -eu
host=$1 model=$2 program=$3
shift 3
there=/tmp/nni-proxyless-$(uname -n)-$$-$(basename "$model")
scp -q -B ${SSH_CONFIG:+-F "$SSH_CONFIG"} "$model" "$host:$there"
# BatchMode: nobody is asked for a password. timeout: what hangs over there ends, too.
ssh -o BatchMode=yes ${SSH_CONFIG:+-F "$SSH_CONFIG"} "$host" "trap 'rm -f $there' EXIT; timeout 50 $program $there $*"
