#!/bin/sh
# What a fresh Debian may lack for building and testing. Prints the line that installs it.
# PYTHON names the interpreter that the virtual environment is made from.
set -u
PYTHON=${PYTHON:-python3}
missing=

need() { # need PACKAGE COMMAND...: PACKAGE is missing where COMMAND fails
    package=$1
    shift
    "$@" >/dev/null 2>&1 || missing="$missing $package"
}

has_python_headers() {
    "$PYTHON" -c 'import os, sysconfig, sys
sys.exit(not os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h")))'
}

has_static_libc() {
    path=$(${CC:-cc} -print-file-name=libc.a) && [ -f "$path" ]
}

need gcc command -v "${CC:-cc}"
need libc6-dev has_static_libc
need python3 command -v "$PYTHON"
need python3-venv "$PYTHON" -c 'import ensurepip, venv'
need python3-dev has_python_headers
need dpkg command -v dpkg
need apt command -v apt-get
need util-linux command -v unshare
need git command -v git
need ca-certificates test -e /etc/ssl/certs/ca-certificates.crt

if [ -n "$missing" ]; then
    echo "Missing packages. Install them with:" >&2
    echo "    sudo apt-get install$missing" >&2
    exit 1
fi
"$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
    echo "$PYTHON is older than 3.11; name a newer one: make PYTHON=..." >&2
    exit 1
}
