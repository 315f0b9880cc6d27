# In the guest: agrocsi, whose calls come from outside through port 9000, and a shell for the test's own looks at port 9001.
. /guest/lib.sh
mkdir -p /tmp/csi /tmp/pods
socat TCP-LISTEN:9000,fork,reuseaddr UNIX-CONNECT:/tmp/csi.sock &
socat -t 300 TCP-LISTEN:9001,fork,reuseaddr EXEC:/tools/bin/bash,stderr &
echo "SHELL_IS_THERE"
# As its orchestrator would, agrocsi is started again whenever it ends.
until [ -e /tmp/status ]; do
  if [ ! -e /tmp/hold ]; then
    agrocsi -v --endpoint unix:///tmp/csi.sock --etcd $ETCD --node-id guest --state-dir /tmp/csi >> /tmp/agrocsi.log 2>&1 < /dev/null
  fi
  usleep 100000
done
[ "$(cat /tmp/status)" = 0 ] || die "the test outside failed"
