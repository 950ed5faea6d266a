"""The tutorial's multi-connection server: python3 selectors_server.py PORT

As its text has it, with what it takes to work: a backlog, non-blocking sockets, unsent bytes kept, and writing watched
only while something waits; the tutorial watches it always, and so never sleeps.
"""

import selectors
import socket
import sys
import types

sel = selectors.DefaultSelector()


def accept_wrapper(sock):
    conn, addr = sock.accept()
    conn.setblocking(False)
    data = types.SimpleNamespace(addr=addr, outb=b"")
    sel.register(conn, selectors.EVENT_READ, data=data)


def service_connection(key, mask):
    sock, data = key.fileobj, key.data
    if mask & selectors.EVENT_READ:
        try:
            received = sock.recv(65536)
        except ConnectionError:
            received = b""
        if not received:
            sel.unregister(sock)
            sock.close()
            return
        data.outb += received
    if data.outb:
        try:
            sent = sock.send(data.outb)
        except BlockingIOError:
            sent = 0
        except ConnectionError:
            sel.unregister(sock)
            sock.close()
            return
        data.outb = data.outb[sent:]
    wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if data.outb else 0)
    if wanted != key.events:
        sel.modify(sock, wanted, data=data)


lsock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
lsock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
lsock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
lsock.bind(("127.0.0.1", int(sys.argv[1])))
lsock.listen(4096)
lsock.setblocking(False)
sel.register(lsock, selectors.EVENT_READ, data=None)

while True:
    for key, mask in sel.select(timeout=None):
        if key.data is None:
            accept_wrapper(key.fileobj)
        else:
            service_connection(key, mask)
