# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash disable=SC2034,SC2154
#
# Java: a ServerSocket without an address, which is on :: for both families; one on 127.0.0.1, which is a mapped
# address; the same without IPv6; and a DatagramSocket. The client is Java as well.

needs=(java javac)
port=9001
variants=(any loopback ipv4 datagram)

limit() {
    case "$variant $1" in
    'datagram '*VIP6* | 'datagram '*::1*) echo 'nothing leads IPv6 datagrams to a UDP socket that is on both families' ;;
    esac
}

targets() {
    case $variant in
    loopback) echo localhost 127.0.0.1 ;;
    ipv4) echo localhost 127.0.0.1 VIP4 ;;
    *) echo localhost 127.0.0.1 ::1 VIP4 VIP6 ;;
    esac
}

prepare() {
    cat >Server.java <<'END'
import java.net.*;

public class Server {
    public static void main(String[] arguments) throws Exception {
        String who = arguments[0], variant = arguments[1];
        int port = Integer.parseInt(arguments[2]);
        if (variant.equals("datagram")) {
            DatagramSocket socket = new DatagramSocket(port);
            while (true) {
                DatagramPacket packet = new DatagramPacket(new byte[100], 100);
                socket.receive(packet);
                System.out.println("client " + packet.getAddress().getHostAddress());
                byte[] answer = (who + " " + packet.getAddress().getHostAddress() + "\n").getBytes();
                socket.send(new DatagramPacket(answer, answer.length, packet.getSocketAddress()));
            }
        }
        ServerSocket server = variant.equals("loopback")
            ? new ServerSocket(port, 50, InetAddress.getByName("127.0.0.1")) : new ServerSocket(port);
        while (true) {
            try (Socket socket = server.accept()) {
                String ends = socket.getInetAddress().getHostAddress() + " at " + socket.getLocalAddress().getHostAddress();
                System.out.println("client " + ends);
                socket.getOutputStream().write((who + " " + ends + "\n").getBytes());
            }
        }
    }
}
END
    cat >Client.java <<'END'
import java.net.*;

public class Client {
    public static void main(String[] arguments) throws Exception {
        int port = Integer.parseInt(arguments[2]);
        try {
            if (arguments[1].equals("datagram")) {
                DatagramSocket socket = new DatagramSocket();
                socket.setSoTimeout(2000);
                socket.send(new DatagramPacket(new byte[1], 1, InetAddress.getByName(arguments[0]), port));
                DatagramPacket packet = new DatagramPacket(new byte[100], 100);
                socket.receive(packet);
                System.out.print(new String(packet.getData(), 0, packet.getLength()));
                System.out.println("client: to " + packet.getAddress().getHostAddress());
                return;
            }
            Socket socket = new Socket();
            socket.connect(new InetSocketAddress(arguments[0], port), 2000);
            System.out.print(new String(socket.getInputStream().readAllBytes()));
            System.out.println("client: from " + socket.getLocalAddress().getHostAddress() + " to "
                + socket.getInetAddress().getHostAddress());
        } catch (Exception e) {
            System.out.println(e);
        }
    }
}
END
    javac Server.java Client.java
}

machine() {
    local options=(-Xshare:auto -XX:TieredStopAtLevel=1 -XX:+UseSerialGC -XX:-UsePerfData -cp "$shared")
    [ "$variant" != ipv4 ] || options+=(-Djava.net.preferIPv4Stack=true)
    exec timeout "$1" java "${options[@]}" "${@:2}"
}

server() { machine 0 Server "$who" "$variant" "$port"; }
client() { machine 8 Client "$1" "$variant" "$port"; }
logged() { sed -n 's/^client //p' output; }
