/* say ADDRESS PORT: sends one datagram, as the first thing that a container does. */
#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>

int main(int count, char **words) {
    struct sockaddr_in to = {.sin_family = AF_INET};
    int client = socket(AF_INET, SOCK_DGRAM, 0);
    if (count != 3 || client < 0 || inet_pton(AF_INET, words[1], &to.sin_addr) != 1) {
        fputs("usage: say ADDRESS PORT\n", stderr);
        return 2;
    }
    to.sin_port = htons((unsigned short)atoi(words[2]));
    return sendto(client, "first", 5, 0, (struct sockaddr *)&to, sizeof to) == 5 ? 0 : 1;
}
