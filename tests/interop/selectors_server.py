"""The tutorial's multi-connection server, with the lines that its text lost: listen, setblocking, accept, else, close.

python3 selectors_server.py HOST PORT [CONNECTIONS]: ends after so many connections, for tests.
"""

import selectors
import socket
import sys
import types

sel = selectors.DefaultSelector()
closed = 0


def accept_wrapper(sock):
    conn, addr = sock.accept()
    print(f"Accepted connection from {addr}")
    conn.setblocking(False)
    data = types.SimpleNamespace(addr=addr, inb=b"", outb=b"")
    sel.register(conn, selectors.EVENT_READ | selectors.EVENT_WRITE, data=data)


def service_connection(key, mask):
    global closed
    sock, data = key.fileobj, key.data
    if mask & selectors.EVENT_READ:
        received = sock.recv(1024)
        if received:
            data.outb += received
        else:
            print(f"Closing connection to {data.addr}")
            sel.unregister(sock)
            sock.close()
            closed += 1
            return
    if mask & selectors.EVENT_WRITE and data.outb:
        sent = sock.send(data.outb)
        data.outb = data.outb[sent:]


host, port = sys.argv[1], int(sys.argv[2])
limit = int(sys.argv[3]) if len(sys.argv) > 3 else None
lsock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
lsock.bind((host, port))
lsock.listen(512)
print(f"Listening on {lsock.getsockname()[1]}", flush=True)
lsock.setblocking(False)
sel.register(lsock, selectors.EVENT_READ, data=None)

while limit is None or closed < limit:
    for key, mask in sel.select(timeout=None):
        if key.data is None:
            accept_wrapper(key.fileobj)
        else:
            service_connection(key, mask)
