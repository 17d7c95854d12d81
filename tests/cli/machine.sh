# What a machine of tests lacks, as functions that a shell finds before the commands: BASH_ENV of those of tests/cli/machine.py.
# It has one unit; HOME holds its log (the journal) and its pid.
cd
touch log
AS_MQNODE=(setpriv --reuid mqnode --regid mqnode --init-groups)

systemctl() {
  [ "$2" = mqnode ]
  case $1 in stop | restart) stop_host ;; esac
  case $1 in start | restart) start_host ;; esac
}

start_host() { # Type=notify: until every process serves
  if runs; then return; fi
  before=$(cat log | wc -l)
  (cd /var/lib/mqnode && umask 077 && exec setsid "${AS_MQNODE[@]}" mqnode start --config /etc/mqnode/mqnode.toml) \
    >>log 2>&1 </dev/null &
  echo $! >pid
  until tail -n "+$((before + 1))" log | grep -q '"event":"host_ready"'; do
    runs
    sleep
  done
}

stop_host() {
  kill "$(cat pid)"
  while runs; do sleep; done
}

runs() { [ -e pid ] && kill -0 "$(cat pid)" 2>/dev/null; }

sleep() { command sleep 0.1; }

journalctl() { # -u has what systemd says of the unit, too; with -f all that is there for now
  case $1 in
    -u) echo "Started mqnode.service - mqnode MQTT broker."; grep . log ;;
    -t) cat log ;;
    *) return 1 ;;
  esac
}

sudo() {
  [ "$1 $2" = "-u mqnode" ]
  shift 2
  "${AS_MQNODE[@]}" "$@"
}

scp() { # FILE HOST:FOLDER; that host's root is linked in HOME
  cp "$1" "${2%%:*}/${2#*:}"
}

make() { command make -n -C "$ROOT" "$@"; } # tests/unit/test_wheel.py makes one
