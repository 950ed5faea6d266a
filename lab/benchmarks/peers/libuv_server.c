/* The echo on libuv: libuv_server PORT
 *
 * Reads into one buffer of the loop, writes it back at once as far as the socket takes it, and queues a copy of the
 * rest; while anything is queued, that connection is not read. */

#include <stdlib.h>
#include <string.h>
#include <uv.h>

static char shared[256 * 1024];

typedef struct {
    uv_write_t request;
    char bytes[];
} rest_t;

static void on_read(uv_stream_t *stream, ssize_t count, const uv_buf_t *buffer);

static void allocate(uv_handle_t *handle, size_t suggested, uv_buf_t *buffer) {
    (void)handle;
    (void)suggested;
    *buffer = uv_buf_init(shared, sizeof shared);
}

static void on_closed(uv_handle_t *handle) { free(handle); }

static void end(uv_stream_t *stream) {
    if (!uv_is_closing((uv_handle_t *)stream)) uv_close((uv_handle_t *)stream, on_closed);
}

static void on_written(uv_write_t *request, int status) {
    uv_stream_t *stream = request->handle;
    free(request);
    if (status < 0)
        end(stream);
    else if (!uv_is_closing((uv_handle_t *)stream))
        uv_read_start(stream, allocate, on_read);
}

static void on_read(uv_stream_t *stream, ssize_t count, const uv_buf_t *buffer) {
    if (count < 0) {
        end(stream);
        return;
    }
    if (count == 0) return;
    uv_buf_t piece = uv_buf_init(buffer->base, (unsigned)count);
    int sent = uv_try_write(stream, &piece, 1);
    if (sent == UV_EAGAIN) sent = 0;
    if (sent < 0) {
        end(stream);
        return;
    }
    if (sent == count) return;
    size_t left = (size_t)count - (size_t)sent;
    rest_t *rest = malloc(sizeof *rest + left);
    if (!rest) abort();
    memcpy(rest->bytes, buffer->base + sent, left);
    piece = uv_buf_init(rest->bytes, (unsigned)left);
    uv_read_stop(stream);
    if (uv_write(&rest->request, stream, &piece, 1, on_written) < 0) {
        free(rest);
        end(stream);
    }
}

static void on_connection(uv_stream_t *server, int status) {
    if (status < 0) return;
    uv_tcp_t *client = malloc(sizeof *client);
    if (!client) abort();
    uv_tcp_init(server->loop, client);
    if (uv_accept(server, (uv_stream_t *)client) < 0) {
        end((uv_stream_t *)client);
        return;
    }
    uv_tcp_nodelay(client, 1);
    uv_read_start((uv_stream_t *)client, allocate, on_read);
}

int main(int argc, char **argv) {
    if (argc < 2) return 2;
    uv_loop_t *loop = uv_default_loop();
    struct sockaddr_in address;
    uv_tcp_t server;
    uv_ip4_addr("127.0.0.1", atoi(argv[1]), &address);
    uv_tcp_init(loop, &server);
    if (uv_tcp_bind(&server, (const struct sockaddr *)&address, 0) < 0) return 1;
    if (uv_listen((uv_stream_t *)&server, 4096, on_connection) < 0) return 1;
    return uv_run(loop, UV_RUN_DEFAULT);
}
