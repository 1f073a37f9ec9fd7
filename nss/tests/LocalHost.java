/* SPDX-License-Identifier: Apache-2.0 */
import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.io.PrintWriter;
import java.net.InetAddress;
import java.net.ServerSocket;
import java.net.Socket;

/**
 * A program of the tests: it looks the local host up, and uses the result as its address.
 *
 *   LocalHost print       the local host's name and address
 *   LocalHost serve NAME  binds that address on port 9000, and sends one client NAME and the client's address
 *   LocalHost ask         connects to the server at the address of the host's name
 */
final class LocalHost {
    private static final int PORT = 9000;

    public static void main(String[] arguments) throws Exception {
        InetAddress local = InetAddress.getLocalHost();
        switch (arguments[0]) {
        case "print":
            System.out.println(local.getHostName() + " " + local.getHostAddress());
            break;
        case "serve":
            try (ServerSocket server = new ServerSocket(PORT, 50, local)) {
                System.out.println("at " + server.getInetAddress().getHostAddress() + " " + server.getLocalPort());
                server.setSoTimeout(120_000);
                try (Socket client = server.accept()) {
                    new PrintWriter(client.getOutputStream(), true)
                        .println(arguments[1] + " " + client.getInetAddress().getHostAddress());
                }
            }
            break;
        case "ask":
            try (Socket server = new Socket(local.getHostName(), PORT)) {
                server.setSoTimeout(60_000);
                System.out.println(
                    new BufferedReader(new InputStreamReader(server.getInputStream())).readLine());
            }
            break;
        default:
            throw new IllegalArgumentException(arguments[0]);
        }
    }
}
