/* What an upload with a checksum costs at the least: takes one PUT after the other over a socket, hashes
 * the bytes (SHA-256) on a second thread while the first receives and writes them, flushes every 32 MiB on
 * a third and once more at the end. No HTTP beyond Content-Length, no token, no row, no directory: a ceiling
 * for benches/nginx.py --floor, not a server.
 *
 *     cc -O2 -o floor benches/floor.c -lcrypto -lpthread && ./floor PORT DIRECTORY
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <openssl/evp.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { SIZE = 1 << 20, BUFFERS = 3, FLUSH = 32 << 20, HEAD = 64 << 10 };

struct upload {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    /* Buffers filled, buffers hashed, flushes asked for; no more come once `ended`. */
    long filled, hashed, flushes;
    bool ended;
    char *bytes[BUFFERS];
    size_t length[BUFFERS];
    EVP_MD_CTX *hash;
    int file;
};

static void fail(const char *what) {
    perror(what);
    exit(1);
}

static void *hash(void *argument) {
    struct upload *upload = argument;
    pthread_mutex_lock(&upload->lock);
    for (;;) {
        while (upload->hashed == upload->filled && !upload->ended)
            pthread_cond_wait(&upload->changed, &upload->lock);
        if (upload->hashed == upload->filled)
            break;
        int at = upload->hashed % BUFFERS;
        pthread_mutex_unlock(&upload->lock);
        EVP_DigestUpdate(upload->hash, upload->bytes[at], upload->length[at]);
        pthread_mutex_lock(&upload->lock);
        upload->hashed++;
        pthread_cond_broadcast(&upload->changed);
    }
    pthread_mutex_unlock(&upload->lock);
    return NULL;
}

static void *flush(void *argument) {
    struct upload *upload = argument;
    long done = 0;
    pthread_mutex_lock(&upload->lock);
    while (!upload->ended) {
        if (upload->flushes == done) {
            pthread_cond_wait(&upload->changed, &upload->lock);
            continue;
        }
        done = upload->flushes;
        pthread_mutex_unlock(&upload->lock);
        if (fsync(upload->file) != 0)
            fail("fsync");
        pthread_mutex_lock(&upload->lock);
    }
    pthread_mutex_unlock(&upload->lock);
    return NULL;
}

static void write_all(int file, const char *bytes, size_t length) {
    while (length > 0) {
        ssize_t written = write(file, bytes, length);
        if (written < 0 && errno != EINTR)
            fail("write");
        if (written > 0) {
            bytes += written;
            length -= written;
        }
    }
}

/* The body of one PUT, whose first bytes came with the head; false when the client went away. */
static bool take(struct upload *upload, int client, const char *first, size_t length, long size) {
    long taken = 0, unflushed = 0;
    while (taken < size) {
        pthread_mutex_lock(&upload->lock);
        while (upload->filled - upload->hashed == BUFFERS)
            pthread_cond_wait(&upload->changed, &upload->lock);
        int at = upload->filled % BUFFERS;
        pthread_mutex_unlock(&upload->lock);
        char *bytes = upload->bytes[at];
        memcpy(bytes, first, length);
        size_t want = size - taken < SIZE ? size - taken : SIZE;
        while (length < want) {
            ssize_t got = recv(client, bytes + length, want - length, 0);
            if (got <= 0)
                return false;
            length += got;
        }
        write_all(upload->file, bytes, length);
        upload->length[at] = length;
        taken += length;
        unflushed += length;
        length = 0;
        pthread_mutex_lock(&upload->lock);
        upload->filled++;
        if (unflushed >= FLUSH) {
            upload->flushes++;
            unflushed = 0;
        }
        pthread_cond_broadcast(&upload->changed);
        pthread_mutex_unlock(&upload->lock);
    }
    return true;
}

static void serve(struct upload *upload, int client, const char *path) {
    static char head[HEAD];
    size_t held = 0;
    char *end = NULL;
    while (!end) {
        ssize_t got = recv(client, head + held, sizeof head - 1 - held, 0);
        if (got <= 0)
            return;
        held += got;
        head[held] = 0;
        end = strstr(head, "\r\n\r\n");
    }
    char *declared = strcasestr(head, "\r\ncontent-length:");
    if (!declared)
        return;
    long size = atol(declared + strlen("\r\ncontent-length:"));
    end += 4;

    upload->file = open(path, O_CREAT | O_EXCL | O_WRONLY, 0644);
    if (upload->file < 0)
        fail(path);
    upload->filled = upload->hashed = upload->flushes = 0;
    upload->ended = false;
    upload->hash = EVP_MD_CTX_new();
    EVP_DigestInit_ex(upload->hash, EVP_sha256(), NULL);
    pthread_t hasher, flusher;
    pthread_create(&hasher, NULL, hash, upload);
    pthread_create(&flusher, NULL, flush, upload);
    bool whole = take(upload, client, end, head + held - end, size);
    pthread_mutex_lock(&upload->lock);
    upload->ended = true;
    pthread_cond_broadcast(&upload->changed);
    pthread_mutex_unlock(&upload->lock);
    pthread_join(hasher, NULL);
    pthread_join(flusher, NULL);
    if (fsync(upload->file) != 0)
        fail("fsync");
    close(upload->file);
    unsigned char sum[EVP_MAX_MD_SIZE];
    EVP_DigestFinal_ex(upload->hash, sum, NULL);
    EVP_MD_CTX_free(upload->hash);
    if (!whole)
        return;
    char text[65];
    for (int at = 0; at < 32; at++)
        sprintf(text + 2 * at, "%02x", sum[at]);
    dprintf(client, "HTTP/1.1 201 Created\r\nContent-Length: 64\r\nConnection: close\r\n\r\n%s", text);
}

int main(int count, char **arguments) {
    if (count != 3) {
        fprintf(stderr, "usage: floor PORT DIRECTORY\n");
        return 2;
    }
    int listener = socket(AF_INET, SOCK_STREAM, 0), yes = 1;
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
    struct sockaddr_in address = {
        .sin_family = AF_INET,
        .sin_port = htons(atoi(arguments[1])),
        .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
    };
    if (bind(listener, (struct sockaddr *)&address, sizeof address) != 0 || listen(listener, 8) != 0)
        fail("listen");
    struct upload upload = {.lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER};
    for (int at = 0; at < BUFFERS; at++)
        upload.bytes[at] = malloc(SIZE + HEAD);
    for (long number = 0;; number++) {
        int client = accept(listener, NULL, NULL);
        if (client < 0)
            continue;
        char path[4096];
        snprintf(path, sizeof path, "%s/%ld", arguments[2], number);
        serve(&upload, client, path);
        close(client);
    }
}
